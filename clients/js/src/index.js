export { TidegateSource } from './source.js';
