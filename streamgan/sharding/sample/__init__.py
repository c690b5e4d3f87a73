"""One row -> the members of one sample: judged, made plain, made smaller, described."""
