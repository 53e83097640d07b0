"""The hotel's gift shop: a small Ravyn app that keeps its sessions with Roomkey. `roomkey serve-demo` runs it."""
