//! What should be true of what is written beside an op, marks of signed requests and audit records, and of what is tidied away.

use webhookd::model::audit::Audit;
use webhookd::model::id::{BROADCAST, OPERATOR_NO, TenantNo};
use webhookd::model::pause::{Pause, Scope};
use webhookd::store::op::{Guard, Op, Refusal, Tidy};

use crate::erase;
use crate::model::{Expected, Model};

impl Model {
    pub fn guarded(&mut self, guard: &Guard, op: &Op) -> Result<Expected, Refusal> {
        if guard.mark.is_some_and(|mark| self.marks.contains(&(mark, true))) {
            return Err(Refusal::Replayed);
        }
        let done = self.op(op)?;
        if let Some(mark) = guard.mark {
            self.marks.retain(|(known, _)| *known != mark);
            self.marks.push((mark, true));
        }
        if let Some(draft) = &guard.audit {
            let of = |no: TenantNo| match no {
                BROADCAST => "*".to_owned(),
                OPERATOR_NO => "operator".to_owned(),
                no => self.tenants[no as usize - 1].clone(),
            };
            let tenant = match &done {
                Expected::Accepted { events, .. } => {
                    events.first().map(|seq| of(self.events[*seq as usize - 1].draft.tenant))
                }
                Expected::Webhook(no) => Some(of(self.hooks[no].tenant)),
                Expected::Tenant(no) => Some(of(*no)),
                Expected::Job(no) => Some(self.deleted_name(op).unwrap_or_else(|| of(*no))),
                Expected::Count(_) | Expected::Retained(_) | Expected::Nothing => None,
            };
            // Those of deleted tenants are called nothing.
            let tenant = tenant.filter(|name| !name.is_empty()).or(draft.tenant.clone());
            let mut record = Audit { at_ms: self.wall_ms, since_ms: self.now, tenant, ..Audit::clone(draft) };
            let is_gone = |name: &String| name != "*" && name != "operator" && !self.tenants.contains(name);
            if record.tenant.as_ref().is_some_and(is_gone) && erase::is_tenants(&record) {
                (record.principal, record.justification, record.remote) = (None, None, None);
            }
            self.next_audit += 1;
            self.audit.insert(self.next_audit, record);
        }
        Ok(done)
    }

    pub fn tidy(&mut self, tidy: Tidy) -> Expected {
        let Tidy { marks_before, audit_before_ms, pauses_before_ms, max } = tidy;
        self.marks.sort_by_key(|(mark, _)| (mark.minute, mark.hash));
        let old = self.marks.iter_mut().filter(|(mark, kept)| *kept && mark.minute < marks_before).take(max);
        let marks = old.map(|(_, kept)| *kept = false).count();
        let old = self.audit.iter().take(max).take_while(|(_, record)| record.since_ms < audit_before_ms);
        let numbers: Vec<u64> = old.map(|(number, _)| *number).collect();
        self.audit.retain(|number, _| !numbers.contains(number));
        let is_over = |pause: &Pause| pause.until_ms.is_some_and(|until| until < pauses_before_ms);
        let over = self.pauses.iter().filter(|(_, pause)| is_over(pause)).take(max);
        let over: Vec<Scope> = over.map(|(scope, _)| scope.clone()).collect();
        self.pauses.retain(|scope, _| !over.contains(scope));
        Expected::Count(marks + numbers.len() + over.len())
    }
}
