"""Source separation: a recurrent head on frozen features masks a mixture's spectrogram [notes/benchmark §1.9]."""
