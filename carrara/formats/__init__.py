"""Safe readers of weight files: safetensors, pickles, TensorFlow, HDF5, Keras and ONNX. Nothing in a file is run."""
