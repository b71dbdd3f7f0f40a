/** The SDK of Causeway: sign in with `Signal`, ring people with `Call`, meet in a `Room`, watch it with `QualityMonitor`. */
export { Call, IncomingCall, type CallMedia, type CallState, type CallTicket } from './call';
export { CAMERA, DeviceError, MICROPHONE, explainDeviceError, openDevices, openNextCamera, openScreen } from './devices';
export { Emitter } from './emitter';
export { SignalError, type CallType, type Connected, type ConsumerScore, type EncodingScore, type PeerInfo, type ProducerInfo, type Rating, type ServerMessage } from './messages';
export { QualityMonitor, rate, sample, type QualityMetrics } from './quality';
export { Room, type PublishOptions, type RoomOptions, type RoomState, type Subscription } from './room';
export { Signal, type SignalOptions, type SignalState } from './signal';
