"""Why a text got its label: what each of its words does to it, on the backend that answers."""
