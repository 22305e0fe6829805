"""Readers that formats share."""
