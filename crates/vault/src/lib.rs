//! Azure Key Vault: what to fetch, how to ask, what bytes come out.
