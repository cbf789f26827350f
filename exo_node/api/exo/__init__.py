"""exo's own paths: those of its first version (chat/token/encode, modelpool, download, quit) and what tools written for
its second one ask for (state, instance, place_instance, bench)."""
