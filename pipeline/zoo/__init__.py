"""Families of architectures, their conformance, frozen public models."""
