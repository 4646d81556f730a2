"""Weights of other projects, by name: one file a project, plain functions between their names and
ours. `matches(keys)` tells a project's files, `to_ours(state)` renames into a MaskedModel's state,
`to_theirs(state)` renames back."""
