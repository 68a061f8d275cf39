//! The CSI node driver `akv-csi`.
