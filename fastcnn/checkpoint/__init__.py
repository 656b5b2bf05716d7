"""Networks in safetensors files, and parameters taken over from others."""
