//! Who a caller is, and what it may do.

use std::{
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use crate::event::{Topic, TopicPattern};

#[derive(Debug, Default)]
pub(crate) struct Identity {
    subject: Option<Arc<str>>,
    caller: Arc<str>,
    subscribe: Vec<TopicPattern>,
    publish: Vec<TopicPattern>,
    admin: bool,
    expires: Option<SystemTime>,
}

impl Identity {
    pub(crate) fn anonymous() -> Arc<Self> {
        static ANONYMOUS: OnceLock<Arc<Identity>> = OnceLock::new();
        ANONYMOUS.get_or_init(Arc::default).clone()
    }
    pub(crate) fn is_anonymous(&self) -> bool {
        self.caller.is_empty()
    }
    pub(crate) fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }
    pub(crate) fn caller(&self) -> &Arc<str> {
        &self.caller
    }
    pub(crate) fn subscribe(&self) -> &[TopicPattern] {
        &self.subscribe
    }
    pub(crate) fn publish(&self) -> &[TopicPattern] {
        &self.publish
    }
    pub(crate) fn may_subscribe(&self, topic: &Topic) -> bool {
        self.subscribe.iter().any(|it| it.matches(topic.as_str()))
    }
    pub(crate) fn may_publish(&self, topic: &Topic) -> bool {
        self.publish.iter().any(|it| it.matches(topic.as_str()))
    }
    pub(crate) fn admin(&self) -> bool {
        self.admin
    }
    pub(crate) fn expires(&self) -> Option<SystemTime> {
        self.expires
    }
}
