"""Everything that speaks JSON."""
