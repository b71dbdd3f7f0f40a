import { Device as Device318 } from 'mediasoup-client';
import { Device as Device324 } from 'mediasoup-client-324';
import * as sdk from '../../src/index';

Object.assign(window, { Device318, Device324, ...sdk });
