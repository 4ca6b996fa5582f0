"""The demonstration: pictures made on the spot, so that it needs no download."""
