//! The `serve.json` of Tailscale's container (Go: `ipn/serve.go`), turned into our own model.
