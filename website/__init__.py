"""The docs site: builds it, and checks what came out."""
