"""The Idempotency-Key: a write that is sent again is not done again."""
