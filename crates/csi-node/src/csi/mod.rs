//! The CSI services, and the requests they take.

mod identity;
mod node;
pub mod request;

pub use identity::IdentityService;
pub use node::NodeService;
