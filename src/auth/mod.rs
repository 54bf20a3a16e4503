//! Who a caller is (placeholder until the room is there).
mod identity;
pub(crate) use identity::Identity;
