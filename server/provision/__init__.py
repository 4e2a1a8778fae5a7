"""Provisioning: what a consortium needs before its first round, made at the coordinator's."""
