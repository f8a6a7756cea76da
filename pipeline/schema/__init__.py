"""Frozen models of params.yaml's sections (pretrain.py, probe.py, ...) and of the files that configure writes."""
