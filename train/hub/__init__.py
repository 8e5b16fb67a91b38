"""To the Hugging Face Hub: cards, one commit for each upload, and a look at what arrived."""
