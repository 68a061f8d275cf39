//! The wire contracts of the node driver, generated from the `.proto` files beside this crate.
//!
//! Messages that carry secrets do not implement `Debug`: log their fields, never the message.

/// Generated code cannot be held to the rules for hand-written code.
macro_rules! generated {
    ($(#[$doc:meta])* $name:ident, $package:literal) => {
        $(#[$doc])*
        #[allow(
            missing_docs,
            unused_qualifications,
            clippy::all,
            clippy::pedantic,
            clippy::allow_attributes_without_reason,
            reason = "generated code"
        )]
        pub mod $name {
            tonic::include_proto!($package);
        }
    };
}

generated!(
    /// Container Storage Interface v1: the Identity and Node services.
    csi,
    "csi.v1"
);
generated!(
    /// Kubelet plugin registration v1.
    registration,
    "pluginregistration"
);
generated!(
    /// Secrets Store CSI Driver provider v1alpha1: how providers in processes of their own are called.
    provider,
    "v1alpha1"
);
generated!(
    /// OTLP: how spans are sent to a collector.
    otlp,
    "otlp"
);
