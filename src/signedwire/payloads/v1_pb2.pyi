from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EnvelopePayload(_message.Message):
    __slots__ = ("agent_command", "motion_command", "inference_result", "heartbeat", "model_weights", "sensor_fusion_frame", "llm_query", "llm_response")
    AGENT_COMMAND_FIELD_NUMBER: _ClassVar[int]
    MOTION_COMMAND_FIELD_NUMBER: _ClassVar[int]
    INFERENCE_RESULT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    MODEL_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    SENSOR_FUSION_FRAME_FIELD_NUMBER: _ClassVar[int]
    LLM_QUERY_FIELD_NUMBER: _ClassVar[int]
    LLM_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    agent_command: AgentCommand
    motion_command: MotionCommand
    inference_result: InferenceResult
    heartbeat: Heartbeat
    model_weights: ModelWeights
    sensor_fusion_frame: SensorFusionFrame
    llm_query: LlmQuery
    llm_response: LlmResponse
    def __init__(self, agent_command: _Optional[_Union[AgentCommand, _Mapping]] = ..., motion_command: _Optional[_Union[MotionCommand, _Mapping]] = ..., inference_result: _Optional[_Union[InferenceResult, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., model_weights: _Optional[_Union[ModelWeights, _Mapping]] = ..., sensor_fusion_frame: _Optional[_Union[SensorFusionFrame, _Mapping]] = ..., llm_query: _Optional[_Union[LlmQuery, _Mapping]] = ..., llm_response: _Optional[_Union[LlmResponse, _Mapping]] = ...) -> None: ...

class AgentCommand(_message.Message):
    __slots__ = ("command_type", "target_did", "timestamp_ns", "payload")
    COMMAND_TYPE_FIELD_NUMBER: _ClassVar[int]
    TARGET_DID_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_NS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    command_type: str
    target_did: bytes
    timestamp_ns: int
    payload: bytes
    def __init__(self, command_type: _Optional[str] = ..., target_did: _Optional[bytes] = ..., timestamp_ns: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class MotionCommand(_message.Message):
    __slots__ = ("linear", "angular", "deadline_ns")
    LINEAR_FIELD_NUMBER: _ClassVar[int]
    ANGULAR_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_NS_FIELD_NUMBER: _ClassVar[int]
    linear: Vector3
    angular: Vector3
    deadline_ns: int
    def __init__(self, linear: _Optional[_Union[Vector3, _Mapping]] = ..., angular: _Optional[_Union[Vector3, _Mapping]] = ..., deadline_ns: _Optional[int] = ...) -> None: ...

class Vector3(_message.Message):
    __slots__ = ("x", "y", "z")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    Z_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    z: float
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ..., z: _Optional[float] = ...) -> None: ...

class InferenceResult(_message.Message):
    __slots__ = ("model_id", "confidence", "label", "raw_output", "latency_us")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    RAW_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    LATENCY_US_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    confidence: float
    label: str
    raw_output: bytes
    latency_us: int
    def __init__(self, model_id: _Optional[str] = ..., confidence: _Optional[float] = ..., label: _Optional[str] = ..., raw_output: _Optional[bytes] = ..., latency_us: _Optional[int] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("sender_did", "uptime_ms", "cpu_usage", "mem_usage_kb", "epoch")
    SENDER_DID_FIELD_NUMBER: _ClassVar[int]
    UPTIME_MS_FIELD_NUMBER: _ClassVar[int]
    CPU_USAGE_FIELD_NUMBER: _ClassVar[int]
    MEM_USAGE_KB_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    sender_did: bytes
    uptime_ms: int
    cpu_usage: int
    mem_usage_kb: int
    epoch: int
    def __init__(self, sender_did: _Optional[bytes] = ..., uptime_ms: _Optional[int] = ..., cpu_usage: _Optional[int] = ..., mem_usage_kb: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class ModelWeights(_message.Message):
    __slots__ = ("model_id", "compressed_weights", "compression", "original_size")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    COMPRESSED_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_FIELD_NUMBER: _ClassVar[int]
    ORIGINAL_SIZE_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    compressed_weights: bytes
    compression: str
    original_size: int
    def __init__(self, model_id: _Optional[str] = ..., compressed_weights: _Optional[bytes] = ..., compression: _Optional[str] = ..., original_size: _Optional[int] = ...) -> None: ...

class SensorFusionFrame(_message.Message):
    __slots__ = ("frame_id", "timestamp_us", "detections", "point_cloud_data", "image_data", "pose")
    FRAME_ID_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_US_FIELD_NUMBER: _ClassVar[int]
    DETECTIONS_FIELD_NUMBER: _ClassVar[int]
    POINT_CLOUD_DATA_FIELD_NUMBER: _ClassVar[int]
    IMAGE_DATA_FIELD_NUMBER: _ClassVar[int]
    POSE_FIELD_NUMBER: _ClassVar[int]
    frame_id: str
    timestamp_us: int
    detections: _containers.RepeatedCompositeFieldContainer[Detection]
    point_cloud_data: bytes
    image_data: bytes
    pose: Transform
    def __init__(self, frame_id: _Optional[str] = ..., timestamp_us: _Optional[int] = ..., detections: _Optional[_Iterable[_Union[Detection, _Mapping]]] = ..., point_cloud_data: _Optional[bytes] = ..., image_data: _Optional[bytes] = ..., pose: _Optional[_Union[Transform, _Mapping]] = ...) -> None: ...

class Detection(_message.Message):
    __slots__ = ("class_name", "confidence", "bbox", "timestamp_us")
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    BBOX_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_US_FIELD_NUMBER: _ClassVar[int]
    class_name: str
    confidence: float
    bbox: BoundingBox
    timestamp_us: int
    def __init__(self, class_name: _Optional[str] = ..., confidence: _Optional[float] = ..., bbox: _Optional[_Union[BoundingBox, _Mapping]] = ..., timestamp_us: _Optional[int] = ...) -> None: ...

class BoundingBox(_message.Message):
    __slots__ = ("x_min", "y_min", "x_max", "y_max")
    X_MIN_FIELD_NUMBER: _ClassVar[int]
    Y_MIN_FIELD_NUMBER: _ClassVar[int]
    X_MAX_FIELD_NUMBER: _ClassVar[int]
    Y_MAX_FIELD_NUMBER: _ClassVar[int]
    x_min: float
    y_min: float
    x_max: float
    y_max: float
    def __init__(self, x_min: _Optional[float] = ..., y_min: _Optional[float] = ..., x_max: _Optional[float] = ..., y_max: _Optional[float] = ...) -> None: ...

class Transform(_message.Message):
    __slots__ = ("x", "y", "z", "qx", "qy", "qz", "qw")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    Z_FIELD_NUMBER: _ClassVar[int]
    QX_FIELD_NUMBER: _ClassVar[int]
    QY_FIELD_NUMBER: _ClassVar[int]
    QZ_FIELD_NUMBER: _ClassVar[int]
    QW_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    z: float
    qx: float
    qy: float
    qz: float
    qw: float
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ..., z: _Optional[float] = ..., qx: _Optional[float] = ..., qy: _Optional[float] = ..., qz: _Optional[float] = ..., qw: _Optional[float] = ...) -> None: ...

class LlmQuery(_message.Message):
    __slots__ = ("prompt", "system_prompt", "model")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_PROMPT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    system_prompt: str
    model: str
    def __init__(self, prompt: _Optional[str] = ..., system_prompt: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class LlmResponse(_message.Message):
    __slots__ = ("response", "latency_us")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    LATENCY_US_FIELD_NUMBER: _ClassVar[int]
    response: str
    latency_us: int
    def __init__(self, response: _Optional[str] = ..., latency_us: _Optional[int] = ...) -> None: ...
