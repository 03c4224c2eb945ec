"""Families with mixtures of experts in place of MLPs."""
