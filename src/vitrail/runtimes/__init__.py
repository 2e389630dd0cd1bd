"""Models in the form of a runtime: written, checked against their model, and run without torch.

OpenVINO and NNCF report over the network that they are used where their package for it can be imported: here it cannot.
"""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
