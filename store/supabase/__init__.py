"""The store of a cluster, in a Supabase project: reached by its REST API with the ``supabase`` package."""
