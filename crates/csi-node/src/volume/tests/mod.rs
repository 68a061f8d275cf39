//! Volumes on real mounts. What is checked is what a pod, another driver or `/proc/self/mountinfo` sees, not what this
//! module says of itself.

pub(super) mod bed;
mod broken;
mod crash;
mod environments;
mod files;
mod removal;
mod seals;
mod swaps;
mod switching;
