import { TidegateSource } from '/tidegate.js';
