"""Counters: how often anything happened."""
