import { Device as Device318, version as version318 } from 'mediasoup-client';
import { Device as Device324, version as version324 } from 'mediasoup-client-324';
import * as sdk from '../../src/index';

Object.assign(window, { Device318, Device324, version318, version324, ...sdk });
