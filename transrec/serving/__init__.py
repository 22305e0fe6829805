"""Serves a trained run, or adapters over one base, as a web service: `transrec serve`; needs the extra `serve`."""
