"""Sessions that no server keeps (`store="cookie://"`): the session itself travels in the browser's cookies, sealed."""
