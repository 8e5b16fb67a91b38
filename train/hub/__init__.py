"""Publishing on the Hugging Face Hub: cards, one commit for each upload, and a check of what arrived."""
