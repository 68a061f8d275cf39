//! Compiles the contracts in this folder with a pure-Rust compiler, so that no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let contracts = ["csi.proto", "pluginregistration.proto", "provider.proto", "otlp.proto"];
    for contract in contracts {
        println!("cargo::rerun-if-changed={contract}");
    }
    let descriptors = protox::compile(contracts, ["."])?;
    tonic_prost_build::configure()
        .build_transport(false)
        // These messages carry secrets and tokens. Without `Debug` they cannot end up in a log by accident.
        .skip_debug([
            "csi.v1.NodePublishVolumeRequest",
            "csi.v1.NodeStageVolumeRequest",
            "csi.v1.NodeExpandVolumeRequest",
            "v1alpha1.MountRequest",
            "v1alpha1.MountResponse",
            "v1alpha1.File",
        ])
        .compile_fds(descriptors)?;
    Ok(())
}
