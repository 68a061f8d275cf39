//! Key Vault, Entra and IMDS on the loopback, for tests and the demo.
