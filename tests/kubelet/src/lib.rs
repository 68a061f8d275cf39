//! Plays the kubelet's part towards a CSI node driver.
