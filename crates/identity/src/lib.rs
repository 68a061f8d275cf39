//! Microsoft Entra tokens for pods and VMs.
