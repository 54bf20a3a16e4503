//! What stands between a connection and the routes, one concern a file.

mod observe;
mod origin;

pub(crate) use observe::ObserveLayer;
pub(crate) use origin::{OriginLayer, options};
