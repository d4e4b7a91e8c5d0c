"""Desired against observed resources: the steps from one to the other, in order, as data."""
