"""The five stages, what each makes of a shard, and the columns that they hand on."""
