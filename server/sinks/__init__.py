"""Where else a run may be told: MLflow and TensorBoard, from its journal, during it or after."""
