"""One page: how the service is used, at a glance."""
