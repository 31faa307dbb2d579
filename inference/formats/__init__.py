"""The formats of model folders: how each is recognised, described, downloaded and converted.

Everything here that reads a folder raises BundleError if a file is missing, damaged or unsafe.
"""
