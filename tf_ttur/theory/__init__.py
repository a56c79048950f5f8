"""The paper's theory as experiments: each module tests one claim by running it."""
