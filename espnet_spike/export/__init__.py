"""Models for elsewhere: packs, ONNX, sherpa, NIR, merged weights (stage 15).

Here lives what writes a model in another form and proves that it says the same.
Training and counting are not done here.
"""
