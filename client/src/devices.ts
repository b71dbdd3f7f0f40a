// Cameras, microphones and screens, with errors that say what to do.

/** Why a device could not be had, in words for the person in front of it. `name` is the DOMException's. */
export class DeviceError extends Error {
  constructor(
    message: string,
    readonly reason: string,
  ) {
    super(message);
    this.name = 'DeviceError';
  }
}

const WORDS: Record<string, string> = {
  NotAllowedError: 'Access was denied. Allow the camera and microphone for this site in the browser’s address bar, then try again.',
  NotFoundError: 'No camera or microphone was found. Plug one in, then try again.',
  NotReadableError: 'The camera or microphone is in use by another program. Close it there, then try again.',
  OverconstrainedError: 'This device cannot do what was asked of it. Choose another one.',
  AbortError: 'The device stopped while it was being opened. Try again.',
  SecurityError: 'The browser forbids cameras and microphones on this page.',
};

/** Turns what getUserMedia or getDisplayMedia threw into words. */
export function explainDeviceError(error: unknown): DeviceError {
  if (error instanceof DeviceError) return error;
  const name = (error as { name?: string } | undefined)?.name ?? 'Error';
  return new DeviceError(WORDS[name] ?? 'The camera or microphone could not be opened.', name);
}

function devices(): MediaDevices {
  // Browsers hide devices from pages that came over plain HTTP.
  if (!navigator.mediaDevices) {
    throw new DeviceError('Cameras and microphones only work over HTTPS or on localhost.', 'InsecureContext');
  }
  return navigator.mediaDevices;
}

/** Asks for a camera, a microphone or both; throws [[DeviceError]]. */
export async function openDevices(constraints: MediaStreamConstraints): Promise<MediaStream> {
  try {
    return await devices().getUserMedia(constraints);
  } catch (error) {
    throw explainDeviceError(error);
  }
}

/** Asks for a screen, window or tab; throws [[DeviceError]]. */
export async function openScreen(): Promise<MediaStream> {
  try {
    return await devices().getDisplayMedia({ video: true, audio: false });
  } catch (error) {
    throw explainDeviceError(error);
  }
}

/** What a camera is asked for: enough for three simulcast layers. */
export const CAMERA: MediaTrackConstraints = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30, max: 30 } };

/** What a microphone is asked for. */
export const MICROPHONE: MediaTrackConstraints = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };

/**
 * Opens the camera after this one: the other facing mode on phones, the next in the list on desktops. The present track
 * is untouched, so that a failure leaves the picture as it is; on phones that cannot open two at once it is stopped first.
 */
export async function openNextCamera(current: MediaStreamTrack): Promise<MediaStreamTrack> {
  const settings = current.getSettings();
  const cameras = (await devices().enumerateDevices()).filter((device) => device.kind === 'videoinput');
  if (cameras.length < 2) throw new DeviceError('There is only one camera.', 'NotFoundError');
  const constraints: MediaTrackConstraints = { ...CAMERA };
  if (settings.facingMode) {
    constraints.facingMode = { ideal: settings.facingMode === 'environment' ? 'user' : 'environment' };
  } else {
    const index = cameras.findIndex((device) => device.deviceId === settings.deviceId);
    constraints.deviceId = { exact: cameras[(index + 1) % cameras.length]!.deviceId };
  }
  const stream = await openDevices({ video: constraints });
  return stream.getVideoTracks()[0]!;
}
