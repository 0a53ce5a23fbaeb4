"""The network of HuBERT, MERT, data2vec-audio and Music2Vec, and their official files."""
