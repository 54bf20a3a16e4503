//! What stands between a connection and the routes, one concern a file.

mod audit;
mod auth;
mod client_addr;
mod gate;
mod observe;
mod origin;
pub(crate) mod rate;

pub(crate) use gate::GateLayer;
pub(crate) use observe::ObserveLayer;
pub(crate) use origin::options;
