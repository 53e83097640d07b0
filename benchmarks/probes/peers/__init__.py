"""One app a library, each as small as it can be."""
