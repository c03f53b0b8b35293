"""Generative models of joint images: MR channels plus annotation."""
